"""What the method is judged against: other ways to choose and other ways to merge."""
