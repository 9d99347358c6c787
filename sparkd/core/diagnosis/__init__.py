# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a host: facts in, findings out. Looks at nothing itself."""
