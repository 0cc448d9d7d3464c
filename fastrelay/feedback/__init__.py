"""What comes back: references of our own in what we send, bounces, complaints."""
