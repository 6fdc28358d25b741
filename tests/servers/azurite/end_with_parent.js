// Loaded before Azurite: ends it when whoever started it is gone, even if that was killed. Its standard input is a pipe that nobody writes to.
process.stdin.on("end", () => process.exit(0));
process.stdin.resume();
