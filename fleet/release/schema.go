package release

import _ "embed"

// Schema is the JSON Schema (2020-12) of release.json, as people write it and as
// Canonical does. What it lets pass Parse may still refuse: it cannot hold files
// against each other.
//
//go:embed release.schema.json
var Schema []byte
