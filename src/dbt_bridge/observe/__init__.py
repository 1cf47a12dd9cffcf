"""What a person, a program or a monitor sees of a run: progress, the stream's view, metrics."""
