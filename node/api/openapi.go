package api

import _ "embed"

//go:embed openapi.json
var document []byte

// Document is the OpenAPI 3.1 description of all routes, as JSON. It is made
// from [Routes] and the types' own comments, and a test fails where it is not.
func Document() []byte { return append([]byte(nil), document...) }
