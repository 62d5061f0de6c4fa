package api

import (
	"fmt"
	"net/url"
	"reflect"
	"strconv"
)

// EncodeQuery turns a struct with `query` tags into URL values; zero fields are
// left out.
func EncodeQuery(query any) url.Values {
	values := url.Values{}
	v := reflect.Indirect(reflect.ValueOf(query))
	if !v.IsValid() {
		return values
	}
	for i := range v.NumField() {
		if field := v.Field(i); !field.IsZero() {
			values.Set(v.Type().Field(i).Tag.Get("query"), fmt.Sprint(field.Interface()))
		}
	}
	return values
}

// DecodeQuery fills the struct that query points to. A name that the struct
// does not have, one given twice and a value of another type are errors.
func DecodeQuery(values url.Values, query any) error {
	v := reflect.ValueOf(query).Elem()
	fields := map[string]reflect.Value{}
	for i := range v.NumField() {
		fields[v.Type().Field(i).Tag.Get("query")] = v.Field(i)
	}
	for name, given := range values {
		field, ok := fields[name]
		if !ok {
			return fmt.Errorf("unknown query parameter %.40q", name)
		}
		if len(given) != 1 {
			return fmt.Errorf("query parameter %s is given %d times", name, len(given))
		}
		if err := setField(field, given[0]); err != nil {
			return fmt.Errorf("query parameter %s: %.40q is not a %s", name, given[0], field.Kind())
		}
	}
	return nil
}

func setField(field reflect.Value, text string) error {
	switch field.Kind() {
	case reflect.String:
		field.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return err
		}
		field.SetBool(b)
	case reflect.Int:
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return err
		}
		field.SetInt(n)
	case reflect.Uint64:
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return err
		}
		field.SetUint(n)
	default:
		return fmt.Errorf("api: no query field may be a %s", field.Kind())
	}
	return nil
}
