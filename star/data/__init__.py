"""Images, their crops, and the store of their codes. No torch: the command line fetches and checks data too."""
