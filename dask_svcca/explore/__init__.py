"""The page that walks through a comparison: a server that reads what is looked at, and a report in one file."""
