package client_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
)

func TestClusterFileRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cluster.json")
	want := &client.ClusterFile{Format: 1, Cluster: api.Cluster{ID: strings.Repeat("a", 32), Incarnation: 1,
		Members: []api.Endpoint{{ID: "b", Name: "c", Address: "h:1", Fingerprint: strings.Repeat("0", 64)}}},
		Operators: &api.OperatorSet{Number: 1, Digest: "d", Approvals: 1, Operators: []api.OperatorKey{{Name: "o", Public: []byte{1}}}}}
	if err := want.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := client.ReadClusterFile(path)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

func TestClusterFileRefused(t *testing.T) {
	good := `{"format":1,"cluster":{"id":"` + strings.Repeat("a", 32) + `","incarnation":1,"members":[{"id":"","name":"","address":"h:1","fingerprint":"` + strings.Repeat("0", 64) + `"}]}}`
	if _, err := client.ParseClusterFile([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"cut":         good[:len(good)-1],
		"tail":        good + "{}",
		"format":      strings.Replace(good, `"format":1`, `"format":2`, 1),
		"unknown":     strings.Replace(good, `"format":1`, `"format":1,"x":1`, 1),
		"cluster":     strings.Replace(good, "aa", "a", 1),
		"fingerprint": strings.Replace(good, "00", "0g", 1),
	} {
		if _, err := client.ParseClusterFile([]byte(bad)); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func FuzzParseClusterFile(f *testing.F) {
	f.Add([]byte(`{"format":1,"cluster":{"id":"","members":[{"fingerprint":""}]}}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		if file, err := client.ParseClusterFile(content); err == nil && len(file.Addresses()) == 0 {
			t.Error("a cluster file without members")
		}
	})
}
