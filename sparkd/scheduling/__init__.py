# SPDX-License-Identifier: Apache-2.0
"""The order of models: from a request for a model to a use lease on it."""
