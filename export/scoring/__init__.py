"""Yardsticks of a packed bundle, measured through the code that serves it, one file for each kind."""
