// Print, as JSON, what VS Code's JSON engine reports for example documents; the argument is the path of the schema.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { getLanguageService, TextDocument } = createRequire(process.cwd() + "/")("vscode-json-languageservice");
const schema = JSON.parse(readFileSync(process.argv[2], "utf8"));
const service = getLanguageService({});
service.configure({ validate: true, schemas: [{ uri: "specnet://model", fileMatch: ["*"], schema }] });

const documentWith = (layer) => `{"input_shape": [4], "layers": [${layer}]}`;
const documents = {
  "a right document": documentWith('{"type": "affine", "units": 3}, {"type": "relu"}'),
  "a misspelt type": documentWith('{"type": "relo"}'),
  "a misspelt key": documentWith('{"type": "affine", "unit": 3}'),
  "a string for a number": documentWith('{"type": "affine", "units": "3"}'),
  "a misspelt initializer": documentWith('{"type": "affine", "units": 3, "weight_init": "he_norml"}'),
  "a type misspelt in a block": documentWith('{"type": "residual", "layers": [{"type": "tanj"}]}'),
  "a key misspelt in a branch": documentWith('{"type": "concat", "branches": [[], [{"type": "dropout", "rat": 0.1}]]}'),
};
const completions = {
  "keys of a document": '{"input_shape": [4], |}',
  "types of layers": documentWith('{"type": "|"}'),
  "keys of an affine": documentWith('{"type": "affine", |}'),
  "initializers": documentWith('{"type": "affine", "units": 3, "weight_init": "|"}'),
  "keys of a dropout in a block": documentWith('{"type": "sequential", "layers": [{"type": "dropout", |}]}'),
};
const hovers = {
  "units": documentWith('{"type": "affine", "u|nits": 3}'),
  "a type": documentWith('{"type": "bat|ch_norm"}'),
  "momentum": documentWith('{"type": "batch_norm", "mom|entum": 0.2}'),
};

const parse = (text) => {
  const document = TextDocument.create("file:///m.json", "json", 1, text.replace("|", ""));
  return { document, json: service.parseJSONDocument(document), position: document.positionAt(text.indexOf("|")) };
};

const answers = { faults: {}, completions: {}, hovers: {} };
for (const [name, text] of Object.entries(documents)) {
  const { document, json } = parse(text);
  const diagnostics = await service.doValidation(document, json, {}, schema);
  answers.faults[name] = diagnostics.map(({ message, range }) => `${document.getText(range)}: ${message}`);
}
for (const [name, text] of Object.entries(completions)) {
  const { document, json, position } = parse(text);
  const proposals = await service.doComplete(document, position, json);
  answers.completions[name] = proposals.items.map(({ label }) => label).sort();
}
for (const [name, text] of Object.entries(hovers)) {
  const { document, json, position } = parse(text);
  const hover = await service.doHover(document, position, json);
  answers.hovers[name] = hover ? hover.contents : null;
}
console.log(JSON.stringify(answers, null, 2));
