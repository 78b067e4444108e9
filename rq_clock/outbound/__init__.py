"""Web calls to addresses that are allowed."""
