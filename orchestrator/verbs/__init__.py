"""What the verbs do, apart from how the command line reads them."""
