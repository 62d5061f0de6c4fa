package api_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/node/api"
)

var update = flag.Bool("update", false, "write openapi.json anew")

// The document says what the table and the types say, and nothing else.
func TestDocumentEqualsRoutes(t *testing.T) {
	want := generate(t)
	if *update {
		if err := os.WriteFile("openapi.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(api.Document(), want) {
		t.Error("openapi.json is not what the routes say: run go test ./node/api -update")
	}
}

type object = map[string]any

// generator makes schemas from the wire types; descriptions come from their
// doc comments.
type generator struct {
	schemas object
	docs    map[string]string // "Type" and "Type.Field"
}

func generate(t *testing.T) []byte {
	t.Helper()
	g := &generator{schemas: object{}, docs: comments(t)}
	paths := object{}
	for _, r := range api.Routes() {
		item, _ := paths[r.Path].(object)
		if item == nil {
			item = object{}
			paths[r.Path] = item
		}
		item[strings.ToLower(r.Method)] = g.operation(r)
	}
	out, err := json.MarshalIndent(object{
		"openapi": "3.1.0",
		"info": object{
			"title": "keycustodian", "version": "1",
			"description": "Callers are known by the SHA-256 fingerprint of their TLS client key. Key names are given in the query or the body.",
			"license":     object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
		},
		"paths": paths,
		"components": object{
			"schemas": g.schemas,
			"securitySchemes": object{"clientKey": object{"type": "mutualTLS",
				"description": "TLS 1.3 with a self-signed client certificate; the SHA-256 of its SubjectPublicKeyInfo is the identity"}},
		},
	}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}

func (g *generator) operation(r api.Route) object {
	op := object{
		"operationId": r.Name, "summary": r.Doc, "x-who": r.Who,
		"security": []object{{"clientKey": []string{}}},
		"responses": object{
			"200":     g.answer(r),
			"default": object{"description": "What failed and what to do", "content": object{api.TypeJSON: object{"schema": g.schema(reflect.TypeFor[api.Error]())}}},
		},
	}
	if r.May(api.Anyone) || !r.May(api.Operator) && r.May(api.Socket) {
		op["security"] = []object{}
	}
	if r.Verb != "" {
		op["x-verb"] = r.Verb
	}
	var parameters []object
	if r.Changes {
		parameters = append(parameters, object{"name": api.HeaderRequest, "in": "header", "required": true,
			"description": "request ID: the same one sent again changes nothing",
			"schema":      object{"type": "string", "pattern": "^[0-9a-f]{32}$"}})
	}
	if r.Query != nil {
		q := reflect.TypeOf(r.Query)
		for i := range q.NumField() {
			f := q.Field(i)
			parameters = append(parameters, object{"name": f.Tag.Get("query"), "in": "query",
				"description": g.docs[q.Name()+"."+f.Name], "schema": g.schema(f.Type)})
		}
	}
	if parameters != nil {
		op["parameters"] = parameters
	}
	switch {
	case r.Request != nil:
		op["requestBody"] = object{"required": true, "content": object{api.TypeJSON: object{"schema": g.schema(reflect.TypeOf(r.Request))}}}
	case r.Secrets != nil:
		op["requestBody"] = object{"required": true, "description": "each as two bytes of length, big-endian, and its bytes: " + strings.Join(r.Secrets, ", "),
			"content": object{api.TypeSecrets: object{}}}
	}
	return op
}

func (g *generator) answer(r api.Route) object {
	answer := object{"description": "OK", "headers": object{
		api.HeaderNode:     object{"description": "ID of the node that answered", "schema": object{"type": "string"}},
		api.HeaderStateAge: object{"description": "seconds since the node heard from a quorum; -1 if never", "schema": object{"type": "number"}},
	}}
	switch {
	case r.Response != nil:
		answer["content"] = object{api.TypeJSON: object{"schema": g.schema(reflect.TypeOf(r.Response))}}
	case r.Name == api.OpenAPI:
		answer["content"] = object{api.TypeJSON: object{}}
	case r.Name == api.ClusterBackup:
		answer["content"] = object{api.TypeBackup: object{}}
	default:
		answer["content"] = object{api.TypeText: object{}}
	}
	return answer
}

func (g *generator) schema(t reflect.Type) object {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[[]byte]():
		return object{"type": "string", "contentEncoding": "base64"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return g.schema(t.Elem())
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int64, reflect.Uint64, reflect.Uint32:
		return object{"type": "integer"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Slice:
		return object{"type": "array", "items": g.schema(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": g.schema(t.Elem())}
	case reflect.Struct:
		g.define(t)
		return object{"$ref": "#/components/schemas/" + t.Name()}
	}
	panic("no schema for " + t.String())
}

func (g *generator) define(t reflect.Type) {
	if _, done := g.schemas[t.Name()]; done {
		return
	}
	s := object{"type": "object", "description": g.docs[t.Name()]}
	g.schemas[t.Name()] = s // before its fields: types may contain themselves
	properties, required := object{}, []string{}
	for _, f := range reflect.VisibleFields(t) {
		if f.Anonymous {
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		schema := g.schema(f.Type)
		owner := t
		if len(f.Index) > 1 {
			owner = t.Field(f.Index[0]).Type
		}
		if doc := g.docs[owner.Name()+"."+f.Name]; doc != "" {
			schema["description"] = doc
		}
		properties[name] = schema
		if options == "" {
			required = append(required, name)
		}
	}
	s["properties"] = properties
	if len(required) > 0 {
		s["required"] = required
	}
}

// comments reads the doc comments of all types and fields of the package.
func comments(t *testing.T) map[string]string {
	t.Helper()
	docs := map[string]string{}
	files, err := fs.Glob(os.DirFS("."), "*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			d, ok := decl.(*ast.GenDecl)
			if !ok || d.Tok != token.TYPE {
				continue
			}
			for _, spec := range d.Specs {
				describe(docs, d, spec.(*ast.TypeSpec))
			}
		}
	}
	return docs
}

func describe(docs map[string]string, d *ast.GenDecl, spec *ast.TypeSpec) {
	text := func(c *ast.CommentGroup) string { return strings.Join(strings.Fields(c.Text()), " ") }
	docs[spec.Name.Name] = text(d.Doc)
	s, ok := spec.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, f := range s.Fields.List {
		for _, n := range f.Names {
			docs[spec.Name.Name+"."+n.Name] = text(f.Doc)
		}
	}
}
