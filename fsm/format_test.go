package fsm_test

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/fsm"
)

// docs/format.md has one line for each encoded type, with its field numbers,
// names and wire types as they are here. A "?" marks what is left out when it is
// zero, empty or absent.
func TestFormatIsWrittenDown(t *testing.T) {
	text, err := os.ReadFile("../docs/format.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[reflect.Type]bool{}
	var order []reflect.Type
	collect := func(v any) { order = appendTypes(order, reflect.TypeOf(v), seen) }
	collect(fsm.Message{})
	for kind := range 256 {
		if body := fsm.NewBody(fsm.Kind(kind)); body != nil {
			collect(body)
		}
	}
	for _, v := range append(rows[:len(rows)-2:len(rows)-2], fsm.SnapshotHeader{}, fsm.RequestRow{}) {
		collect(v)
	}
	for _, v := range statements {
		collect(v)
	}
	for _, typ := range order {
		if line := describe(typ); !strings.Contains(string(text), line+"\n") {
			t.Errorf("not in docs/format.md:\n%s", line)
		}
	}
}

func appendTypes(order []reflect.Type, typ reflect.Type, seen map[reflect.Type]bool) []reflect.Type {
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice:
		return appendTypes(order, typ.Elem(), seen)
	case reflect.Struct:
		if seen[typ] {
			return order
		}
		seen[typ] = true
		order = append(order, typ)
		for i := range typ.NumField() {
			order = appendTypes(order, typ.Field(i).Type, seen)
		}
	}
	return order
}

func typeName(typ reflect.Type) string { return strings.ToUpper(typ.Name()[:1]) + typ.Name()[1:] }

func describe(typ reflect.Type) string {
	head := "- **" + typeName(typ) + "**"
	if body, ok := reflect.New(typ).Interface().(fsm.Body); ok {
		head = fmt.Sprintf("- **%s** (kind %d)", typeName(typ), body.Kind())
	}
	var fields []string
	for i := range typ.NumField() {
		field := typ.Field(i)
		tag := field.Tag.Get("cbor")
		number, _, _ := strings.Cut(tag, ",")
		optional := ""
		if strings.Contains(tag, "omit") {
			optional = "?"
		}
		fields = append(fields, fmt.Sprintf("%s %s %s%s", number, field.Name, wireType(field.Type), optional))
	}
	return head + ": " + strings.Join(fields, ", ")
}

func wireType(typ reflect.Type) string {
	switch typ.Kind() {
	case reflect.Bool:
		return "bool"
	case reflect.Int, reflect.Int64:
		return "int"
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "uint"
	case reflect.String:
		return "text"
	case reflect.Array:
		return fmt.Sprintf("bytes(%d)", typ.Len())
	case reflect.Pointer:
		return wireType(typ.Elem())
	case reflect.Slice:
		if typ.Name() == "RawMessage" {
			return "map"
		}
		if typ.Elem().Kind() == reflect.Uint8 {
			return "bytes"
		}
		return "[" + wireType(typ.Elem()) + "]"
	}
	return typeName(typ)
}
