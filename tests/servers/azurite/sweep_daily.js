// Loaded before Azurite: has it clear up what blobs that are gone leave behind once a day, not every ten minutes. It answers nobody meanwhile: for minutes,
// once some ten thousand blobs are gone.
const { createRequire } = require("module");

createRequire(process.argv[1])("./utils/constants").DEFAULT_GC_INTERVAL_MS = 24 * 60 * 60 * 1000;
