// Package keycustodian_test holds the house in shape: which package may know
// which other, ours and foreign. A new arrow is a decision, made here.
package keycustodian_test

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/keycustodian/keycustodian"

// allowed lists, for every package, the packages of ours and the modules of
// others that its non-test code may import. "node/*" style entries do not
// exist: each package is named. The standard library is not listed.
var allowed = map[string]string{
	"internal/secret": "golang.org/x/sys golang.org/x/crypto golang.org/x/term",
	"hsm":             "internal/secret",
	"hsm/keyblob":     "internal/secret",
	"hsm/soft":        "hsm hsm/keyblob internal/secret",
	"hsm/drivers":     "hsm hsm/soft internal/secret",
	"hsm/hsmtest":     "hsm hsm/keyblob internal/secret",
	"dkek":            "internal/secret github.com/hashicorp/vault github.com/fxamacker/cbor/v2",
	"fsm":             "dkek hsm github.com/hashicorp/go-memdb github.com/fxamacker/cbor/v2",
	"transport":       "github.com/hashicorp/memberlist github.com/hashicorp/raft golang.org/x/net github.com/fxamacker/cbor/v2",
	"node/api":        "",
	"node": "dkek fsm hsm hsm/keyblob hsm/soft transport node/api internal/secret github.com/hashicorp/raft github.com/hashicorp/raft-boltdb/v2 " +
		"github.com/hashicorp/go-hclog go.etcd.io/bbolt github.com/fxamacker/cbor/v2 github.com/prometheus/client_golang golang.org/x/sync golang.org/x/sys",
	"node/client":   "node/api golang.org/x/sync",
	"node/nodetest": "node node/api node/client fsm dkek hsm hsm/soft hsm/hsmtest transport internal/secret",
	"cmd/nodectl": "node node/api node/client fsm dkek transport hsm hsm/drivers hsm/soft internal/secret filippo.io/age " +
		"github.com/spf13/cobra go.yaml.in/yaml/v3 golang.org/x/term golang.org/x/sys",
}

func TestArrows(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		name := strings.TrimPrefix(strings.TrimPrefix(fields[0], module), "/")
		if name == "" {
			continue
		}
		list, known := allowed[name]
		if !known {
			t.Errorf("package %s is not in the house: name it in the table, with its floor", name)
			continue
		}
		for _, imported := range fields[1:] {
			if !mayImport(imported, strings.Fields(list)) {
				t.Errorf("%s imports %s: no such arrow", name, imported)
			}
		}
	}
}

func mayImport(imported string, list []string) bool {
	if first, _, _ := strings.Cut(imported, "/"); !strings.Contains(first, ".") {
		return true // the standard library
	}
	own, ours := strings.CutPrefix(imported, module+"/")
	for _, entry := range list {
		if ours && own == entry || !ours && (imported == entry || strings.HasPrefix(imported, entry+"/")) {
			return true
		}
	}
	return false
}
