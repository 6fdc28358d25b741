// Loaded before Azurite.
const { createRequire } = require("module");

const azurite = createRequire(process.argv[1]);

// It ends when whoever started it is gone, even if that was killed: its standard input is a pipe that nobody writes to.
process.stdin.on("end", () => process.exit(0));
process.stdin.resume();

// Its database looks for a blob by the blob's name first. By itself it begins with the account, which all blobs of a test share, and reads each of them;
// what is found is the same.
const { Collection } = azurite("lokijs");
const findOne = Collection.prototype.findOne;
Collection.prototype.findOne = function (query) {
    if (typeof query?.name !== "string" || Object.keys(query).some((key) => key.startsWith("$"))) return findOne.call(this, query);
    const { name, ...others } = query;
    return findOne.call(this, { $and: [{ name }, ...Object.entries(others).map(([key, value]) => ({ [key]: value }))] });
};

// It clears up what blobs that are gone leave behind once a day, not every ten minutes. It answers nobody meanwhile: for minutes, once some ten thousand
// blobs are gone.
azurite("./utils/constants").DEFAULT_GC_INTERVAL_MS = 24 * 60 * 60 * 1000;
