"""How many of many like cases the slow tests try."""

from __future__ import annotations

import os

ONE_OF = int(os.environ.get("ONE_OF", "2"))
"""One of so many moments, ways and courses of events is tried. 1 tries all."""
