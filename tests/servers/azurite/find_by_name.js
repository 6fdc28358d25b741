// Loaded before Azurite: has its database look for a blob by the blob's name first. By itself it begins with the account, which all blobs of a test share,
// and reads each of them; what is found is the same.
const { createRequire } = require("module");

const { Collection } = createRequire(process.argv[1])("lokijs");
const findOne = Collection.prototype.findOne;
Collection.prototype.findOne = function (query) {
    if (typeof query?.name !== "string" || Object.keys(query).some((key) => key.startsWith("$"))) return findOne.call(this, query);
    const { name, ...others } = query;
    return findOne.call(this, { $and: [{ name }, ...Object.entries(others).map(([key, value]) => ({ [key]: value }))] });
};
