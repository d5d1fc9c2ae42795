"""The command line, and the supervisor behind `telltale up`."""
