"""The client end to end, from outside: its public face against the simulated gateway over real sockets."""
