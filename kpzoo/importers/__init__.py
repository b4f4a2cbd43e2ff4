"""Published checkpoints into models of the zoo."""
