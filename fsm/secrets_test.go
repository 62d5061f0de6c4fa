package fsm_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

// rows are all types that lie in state; commands are found by their kinds.
var rows = []any{fsm.Cluster{}, fsm.Member{}, fsm.Removed{}, fsm.MemberChange{}, fsm.Token{}, fsm.Client{}, fsm.GovernRecord{}, fsm.SharingRow{},
	fsm.Ceremony{}, fsm.Key{}, fsm.Version{}, fsm.Tombstone{}, fsm.Coverage{}, fsm.Aborted{}, fsm.AuditRecord{}, fsm.Result{}, fsm.SnapshotHeader{}}

var statements = []any{fsm.Open{}, fsm.RecipientStatement{}, fsm.JoinStatement{}, fsm.RotateStatement{}, fsm.DealingStatement{}, fsm.AckStatement{},
	fsm.ReportStatement{}, fsm.CloseStatement{}, fsm.RecoverStatement{}, fsm.DeviceStatement{}, fsm.BackupStatement{}}

// No command, row, statement or answer can hold a secret: not by type, and no
// field is called like one.
func TestNothingReplicatedCanHoldASecret(t *testing.T) {
	seen := map[reflect.Type]bool{}
	for _, v := range append(rows, statements...) {
		searchSecrets(t, reflect.TypeOf(v), "", seen)
	}
	for _, command := range story(t).log {
		c, err := fsm.Decode(command)
		if err != nil {
			t.Fatal(err)
		}
		searchSecrets(t, reflect.TypeOf(c.Body), "", seen)
	}
	if len(seen) < 50 {
		t.Fatalf("only %d types searched", len(seen))
	}
	planted := struct{ Inner struct{ P *hsm.Secret } }{}
	if !holdsSecret(reflect.TypeOf(planted.Inner.P)) {
		t.Fatal("a planted secret was not found")
	}
}

func holdsSecret(t reflect.Type) bool {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t == reflect.TypeFor[hsm.Secret]() || strings.HasSuffix(t.PkgPath(), "internal/secret")
}

func searchSecrets(t *testing.T, typ reflect.Type, path string, seen map[reflect.Type]bool) {
	t.Helper()
	if holdsSecret(typ) {
		t.Errorf("%s is a secret", path)
		return
	}
	if seen[typ] {
		return
	}
	seen[typ] = true
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		searchSecrets(t, typ.Elem(), path, seen)
	case reflect.Map:
		searchSecrets(t, typ.Key(), path, seen)
		searchSecrets(t, typ.Elem(), path, seen)
	case reflect.Interface:
		if typ != reflect.TypeFor[error]() {
			t.Errorf("%s is an interface: anything could be in it", path)
		}
	case reflect.Float32, reflect.Float64, reflect.Func, reflect.Chan:
		t.Errorf("%s is a %s", path, typ.Kind())
	case reflect.Struct:
		for i := range typ.NumField() {
			field := typ.Field(i)
			name := path + "." + field.Name
			for _, word := range []string{"private", "secret", "pin", "partial", "y"} {
				if strings.EqualFold(field.Name, word) || word != "y" && word != "pin" && strings.Contains(strings.ToLower(field.Name), word) {
					t.Errorf("%s.%s is called like a secret", typ, field.Name)
				}
			}
			searchSecrets(t, field.Type, name, seen)
		}
	}
}

// A state of every kind of row, field by field, has an integer key for each: no
// field is lost in a snapshot, and none is called by a name that could change.
func TestEveryFieldHasANumber(t *testing.T) {
	for _, v := range append(rows[:len(rows)-2], statements...) {
		typ := reflect.TypeOf(v)
		numbers := map[string]bool{}
		for i := range typ.NumField() {
			tag, rest, _ := strings.Cut(typ.Field(i).Tag.Get("cbor"), ",")
			if tag == "" || !strings.Contains(rest, "keyasint") || numbers[tag] {
				t.Errorf("%s.%s: cbor tag %q", typ, typ.Field(i).Name, typ.Field(i).Tag.Get("cbor"))
			}
			numbers[tag] = true
		}
	}
}
