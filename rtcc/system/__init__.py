"""What the operating system gives: processes, files, memory, and the machine itself."""
