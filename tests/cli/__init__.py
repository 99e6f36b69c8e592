"""The command line, as it is run: a process with arguments, an exit code and two streams."""
