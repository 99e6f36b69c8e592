"""The simulated gateway, tried over real sockets."""
