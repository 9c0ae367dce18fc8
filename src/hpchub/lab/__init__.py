"""What runs in the user's job. Imports nothing of the hub's side."""
