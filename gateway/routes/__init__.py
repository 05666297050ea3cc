"""What the gateway answers to: one file per face."""
