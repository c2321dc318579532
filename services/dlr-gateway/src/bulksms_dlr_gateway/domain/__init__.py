"""Reports and the rules about them: pure, without input or output."""
