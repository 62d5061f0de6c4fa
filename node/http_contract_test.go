package node_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/api"
)

// Every route of the table is answered, with the types that the table names,
// and nothing else is.
func TestEveryRouteIsServed(t *testing.T) {
	served := node.Served()
	for _, route := range api.Routes() {
		got, ok := served[route.Name]
		if !ok {
			t.Errorf("%s is not served", route.Name)
			continue
		}
		request := route.Request
		if request == nil {
			request = route.Query
		}
		want := fmt.Sprintf("%T %T %d", request, route.Response, len(route.Secrets))
		if got != want {
			t.Errorf("%s: serves %s, the table says %s", route.Name, got, want)
		}
		delete(served, route.Name)
	}
	for name := range served {
		t.Errorf("%s is served and in no table", name)
	}
}

// contract compares answers with the OpenAPI document.
type contract struct {
	t       *testing.T
	schemas map[string]schema
	answers map[string]schema // by operationId
}

// schema is what the document uses of JSON Schema.
type schema struct {
	Ref        string            `json:"$ref"`
	Type       string            `json:"type"`
	Format     string            `json:"format"`
	Encoding   string            `json:"contentEncoding"`
	Properties map[string]schema `json:"properties"`
	Required   []string          `json:"required"`
	Items      *schema           `json:"items"`
	Additional *schema           `json:"additionalProperties"`
}

func newContract(t *testing.T) func(name string, r reply) reply {
	var document struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
			Responses   map[string]struct {
				Content map[string]struct{ Schema schema }
			}
		}
		Components struct{ Schemas map[string]schema }
	}
	if err := json.Unmarshal(api.Document(), &document); err != nil {
		t.Fatal(err)
	}
	c := contract{t, document.Components.Schemas, map[string]schema{}}
	for _, methods := range document.Paths {
		for _, operation := range methods {
			c.answers[operation.OperationID] = operation.Responses["200"].Content[api.TypeJSON].Schema
		}
	}
	return c.check
}

func (c contract) check(name string, r reply) reply {
	c.t.Helper()
	var body any
	decoder := json.NewDecoder(bytes.NewReader(r.body))
	decoder.UseNumber()
	if err := decoder.Decode(&body); err != nil {
		c.t.Fatalf("%s: %v: %s", name, err, r.body)
	}
	want := c.answers[name]
	if r.status != 200 {
		want = schema{Ref: "#/components/schemas/Error"}
	}
	if err := c.fits(want, body, name); err != nil {
		c.t.Errorf("not what the document says: %v", err)
	}
	for _, header := range []string{api.HeaderNode, api.HeaderStateAge} {
		if r.header.Get(header) == "" {
			c.t.Errorf("%s: no %s", name, header)
		}
	}
	return r
}

func (c contract) fits(s schema, value any, at string) error {
	if s.Ref != "" {
		return c.fits(c.schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")], value, at)
	}
	switch v := value.(type) {
	case map[string]any:
		return c.object(s, v, at)
	case []any:
		if s.Type != "array" {
			return fmt.Errorf("%s is an array", at)
		}
		for i, item := range v {
			if err := c.fits(*s.Items, item, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
	case string:
		if s.Type != "string" {
			return fmt.Errorf("%s is a string", at)
		}
		if s.Format == "date-time" {
			if when, err := time.Parse(time.RFC3339Nano, v); err != nil || when.Location() != time.UTC {
				return fmt.Errorf("%s: %q is no time in UTC", at, v)
			}
		}
	case json.Number:
		if s.Type != "number" && (s.Type != "integer" || strings.ContainsAny(v.String(), ".eE")) {
			return fmt.Errorf("%s: %s where a %s belongs", at, v, s.Type)
		}
	case bool:
		if s.Type != "boolean" {
			return fmt.Errorf("%s is a boolean", at)
		}
	case nil:
		return fmt.Errorf("%s is null", at)
	}
	return nil
}

func (c contract) object(s schema, v map[string]any, at string) error {
	if s.Type != "object" {
		return fmt.Errorf("%s is an object", at)
	}
	for _, name := range s.Required {
		if _, ok := v[name]; !ok {
			return fmt.Errorf("%s lacks %s", at, name)
		}
	}
	for name, field := range v {
		want, ok := s.Properties[name]
		if !ok && s.Additional != nil {
			want, ok = *s.Additional, true
		}
		if !ok {
			return fmt.Errorf("%s has an unknown field %s", at, name)
		}
		if field == nil && !slices.Contains(s.Required, name) {
			continue
		}
		if err := c.fits(want, field, at+"."+name); err != nil {
			return err
		}
	}
	return nil
}
