package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// namedOnce refuses a body in which an object names something twice. encoding/json
// takes the last one, and a field in any case of its letters; a proxy or a log that
// reads the same body may go by the first. The body has been decoded into a t, so
// it is well formed and no deeper than t.
func namedOnce(body []byte, t reflect.Type) error {
	return objectsOnce(json.NewDecoder(bytes.NewReader(body)), t)
}

func objectsOnce(d *json.Decoder, t reflect.Type) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	token, err := d.Token()
	if err != nil {
		return err
	}
	switch token {
	case json.Delim('['):
		for d.More() {
			if err := objectsOnce(d, t.Elem()); err != nil {
				return err
			}
		}
	case json.Delim('{'):
		seen := map[string]bool{}
		for d.More() {
			token, err := d.Token()
			if err != nil {
				return err
			}
			name, of := member(t, token.(string)) // names of members are strings
			if seen[name] {
				return fmt.Errorf("%.40q is there twice", name)
			}
			seen[name] = true
			if err := objectsOnce(d, of); err != nil {
				return err
			}
		}
	default:
		return nil
	}
	_, err = d.Token()
	return err
}

// member is the type of what is called name in a t, and its name in t.
func member(t reflect.Type, name string) (string, reflect.Type) {
	if t.Kind() != reflect.Struct {
		return name, t.Elem()
	}
	for _, field := range reflect.VisibleFields(t) {
		if called, _, _ := strings.Cut(field.Tag.Get("json"), ","); called != "" && strings.EqualFold(called, name) {
			return called, field.Type
		}
	}
	return name, reflect.TypeFor[any]() // cannot be: unknown fields are refused
}
