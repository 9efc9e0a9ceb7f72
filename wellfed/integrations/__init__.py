"""wellfed.watch inside other people's training loops. Each module imports its framework; wellfed does not."""
