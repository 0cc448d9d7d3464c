"""What a reply or a failure means, and its settlement."""
