package fsm_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/fsm"
)

// testdata/commands.golden holds one command of every kind, every field filled,
// byte for byte with its meaning. These bytes are law: a released kind that
// encodes otherwise is another kind. The lines of a command begin with "# Kind";
// what follows ";" is the meaning.
func TestGoldenCommands(t *testing.T) {
	golden := readGolden(t, "testdata/commands.golden")
	kinds := 0
	for kind := range 256 {
		body := fsm.NewBody(fsm.Kind(kind))
		if body == nil {
			continue
		}
		kinds++
		name := reflect.TypeOf(body).Elem().Name()
		want := fsm.Command{Body: body}
		n := byte(0)
		fill(reflect.ValueOf(&want.Header).Elem(), "", &n)
		fill(reflect.ValueOf(body).Elem(), "", &n)
		encoded, err := fsm.Encode(want)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(encoded, golden[name]) {
			t.Errorf("%s encodes to\n%x, golden is\n%x", name, encoded, golden[name])
			continue
		}
		if got, err := fsm.Decode(golden[name]); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s decodes to %+v, %v", name, got, err)
		}
	}
	if kinds != len(golden) {
		t.Errorf("%d kinds, %d golden commands", kinds, len(golden))
	}
}

// fill gives every field another value: numbers count up, texts are the field's
// name, byte strings repeat a number, lists have one element.
func fill(v reflect.Value, name string, n *byte) {
	*n++
	switch v.Kind() {
	case reflect.Struct:
		*n--
		for i := range v.NumField() {
			fill(v.Field(i), strings.ToLower(v.Type().Field(i).Name), n)
		}
	case reflect.Pointer:
		*n--
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), name, n)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte{*n, *n})
			return
		}
		*n--
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), name, n)
	case reflect.Array:
		for i := range v.Len() {
			v.Index(i).SetUint(uint64(*n))
		}
	case reflect.String:
		v.SetString(name)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	default:
		v.SetUint(uint64(*n))
	}
}

func readGolden(t *testing.T, file string) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	golden := map[string][]byte{}
	name := ""
	for line := range strings.Lines(string(text)) {
		if head, ok := strings.CutPrefix(line, "# "); ok {
			name = strings.TrimSpace(head)
			continue
		}
		code, _, _ := strings.Cut(line, ";")
		raw, err := hex.DecodeString(strings.Join(strings.Fields(code), ""))
		if err != nil {
			t.Fatalf("%s: %q: %v", name, line, err)
		}
		golden[name] = append(golden[name], raw...)
	}
	return golden
}

// testdata/statements.golden holds what is signed, in the same form. The last
// line of each is the Ed25519 signature by the key whose seed is SHA-256("golden")
// under the statement's domain.
func TestGoldenStatements(t *testing.T) {
	golden := readGolden(t, "testdata/statements.golden")
	domains := []fsm.Domain{fsm.DomainOpen, fsm.DomainRecipient, fsm.DomainJoin, fsm.DomainRotate, fsm.DomainDealing, fsm.DomainAck, fsm.DomainReport, fsm.DomainClose,
		fsm.DomainRecover, fsm.DomainDevice, fsm.DomainBackup}
	for i, statement := range statements {
		name := reflect.TypeOf(statement).Name()
		v := reflect.New(reflect.TypeOf(statement))
		n := byte(0)
		fill(v.Elem(), "", &n)
		signed, err := fsm.SignStatement(newPerson("golden").key, domains[i], v.Interface())
		if err != nil {
			t.Fatal(err)
		}
		if got := append(signed.Statement, signed.Signature...); !bytes.Equal(got, golden[name]) {
			t.Errorf("%s encodes to\n%x, golden is\n%x", name, got, golden[name])
		}
		if err := fsm.VerifyMessage(newPerson("golden").public, domains[i], signed.Statement, signed.Signature); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if fsm.VerifyMessage(newPerson("golden").public, domains[(i+1)%len(domains)], signed.Statement, signed.Signature) == nil {
			t.Errorf("%s verifies in another domain", name)
		}
	}
}
