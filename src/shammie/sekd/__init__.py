"""SE-KD: distil a teacher into a student only where it counts: positions, classes, samples."""
