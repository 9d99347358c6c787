# SPDX-License-Identifier: Apache-2.0
"""Code that runs in the containers of models, mounted read-only, by their own Python.

Nothing here imports anything of sparkd or of a library, and nothing of sparkd imports it.
"""
