"""Each fault of the network and of the services, met by each command that moves something."""
