"""What is shown of finished and unfinished runs: a comparison of several, and a page of figures."""
