"""What a command line gives to the commands: configs and flags, the user's own modules, weights and batches."""
