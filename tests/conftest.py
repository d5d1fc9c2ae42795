"""What holds for every test."""

import os

from hypothesis import settings

# Time never decides a test. Developers explore new examples each time; what decides a change is repeatable.
settings.register_profile("telltale", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("telltale")
