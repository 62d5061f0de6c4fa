package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
	"github.com/spf13/cobra"
)

func (a *app) clusterBackup() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "backup --out FILE", Short: "write a backup of the cluster's state (or inspect one)",
		Long: `Writes the newest state of the whole cluster to a file (mode 0600), signed by the
node that gave it: members, operators, clients, policy, the public half of the
sharings, ceremonies, every key's name, public half and wrapped form, the newest
audit records. The file is read again and verified before this says that it is
done. Without a quorum there is none to be had.

No secret is in it: no share, no DKEK, no PIN, no seal secret, no private key that
is not wrapped. To restore it (nodectl cluster restore) it takes as many members
as the threshold says, with their data folders, shares and seal secrets, and as
many operators as must approve. Without those the file restores nothing. It keeps
keys that are destroyed later.

Make one after each change of operators and each rotation of a node's key too: one
from before a change of operators cannot be restored, and a node whose key was
rotated since has to join again.`,
		Example: `  nodectl cluster backup --out custodians.backup
  nodectl --addr unix:/run/keycustodian/socket cluster backup --out custodians.backup`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
				return hint("name another file: a backup that is overwritten is gone", fmt.Errorf("%s is there already", out))
			}
			s, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer s.end(ctx)
			b, err := s.backup(ctx, out)
			if err != nil {
				return err
			}
			a.say("wrote %s, read it again and verified it", out)
			return a.showBackup(b)
		},
	}
	c.Flags().StringVar(&out, "out", "", "`FILE` for the backup; it must not be there yet")
	c.MarkFlagRequired("out")
	c.AddCommand(a.backupInspect())
	return c
}

// backup fetches a backup into a file beside the named one, and gives it its name
// when what is on disk has been read and verified.
func (s *session) backup(ctx context.Context, out string) (*fsm.Backup, error) {
	folder := filepath.Dir(out)
	beside, err := os.OpenFile(filepath.Join(folder, "."+filepath.Base(out)+".new"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hint("make the folder "+folder+", or name another with --out", fmt.Errorf("%s: its folder is not there", out))
	}
	if err != nil {
		return nil, err
	}
	defer os.Remove(beside.Name())
	defer beside.Close()
	receive := func(r io.Reader) error { // once for each address that is tried
		if _, err := beside.Seek(0, io.SeekStart); err != nil {
			return err
		}
		if err := beside.Truncate(0); err != nil {
			return err
		}
		_, err := io.Copy(beside, r)
		return err
	}
	if err := s.do(ctx, api.ClusterBackup, nil, receive); err != nil {
		return nil, err
	}
	if err := beside.Sync(); err != nil {
		return nil, err
	}
	b, err := s.app.readBackupAs(out, beside.Name(), s.file)
	if err != nil {
		return nil, err
	}
	if err := os.Rename(beside.Name(), out); err != nil {
		return nil, err
	}
	return b, secret.SyncFolder(filepath.Dir(out))
}

// readBackup reads and verifies a backup file, and where a cluster file is known
// that it is of that cluster and of the operators who are pinned there.
func (a *app) readBackup(path string, known *client.ClusterFile) (*fsm.Backup, error) {
	return a.readBackupAs(path, path, known)
}

// readBackupAs calls the file name in errors.
func (a *app) readBackupAs(name, path string, known *client.ClusterFile) (*fsm.Backup, error) {
	defer a.busy("reading and verifying the backup")()
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := verifyBackup(file, known)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b, nil
}

func verifyBackup(file io.Reader, known *client.ClusterFile) (*fsm.Backup, error) {
	b, err := fsm.ReadBackup(file)
	if errors.Is(err, fsm.ErrUnknownKind) {
		return nil, hint("read it with the version of nodectl that wrote it, or a later one", err)
	}
	if err != nil {
		return nil, hint("this file restores nothing: take another backup", err)
	}
	if known == nil {
		return b, nil
	}
	if b.Cluster.String() != known.Cluster.ID {
		return nil, hint("name the cluster file of that cluster, or the right backup", fmt.Errorf("it is a backup of cluster %s, and the cluster file is of %s", b.Cluster, known.Cluster.ID))
	}
	if known.Operators == nil {
		return b, nil
	}
	pinned, err := setFromWire(known.Cluster.ID, *known.Operators)
	if err != nil {
		return nil, fmt.Errorf("cluster file: %w", err)
	}
	if !b.HasSet(pinned) {
		return nil, hint("it is older than the last change of the operators, or made up: take another backup", fmt.Errorf("operator set %d, which the cluster file pins, is not in the backup", pinned.Number))
	}
	return b, nil
}

func (a *app) backupInspect() *cobra.Command {
	return &cobra.Command{
		Use: "inspect FILE", Short: "verify a backup file offline, and say what is in it and what it takes to restore it",
		Long: `Reads a backup file wholly and verifies it: every byte is what a member that it
names has signed, and its operators follow from the first ones by signatures.
Whoever makes up a whole file can make up those too: with a cluster file (--cluster)
it must also be of that cluster, and of the operators who are pinned there.`,
		Example: `  nodectl cluster backup inspect custodians.backup
  nodectl cluster backup inspect custodians.backup -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			known, err := client.ReadClusterFile(a.clusterPath())
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			b, err := a.readBackup(args[0], known)
			if err != nil {
				return err
			}
			if known == nil {
				a.say("note: there is no cluster file to compare it with: whether these are your operators, compare yourself")
			}
			return a.showBackup(b)
		},
	}
}

// backupShown is a backup as inspect shows it.
type backupShown struct {
	Cluster     string         `json:"cluster"`
	Name        string         `json:"name"`
	Incarnation uint64         `json:"incarnation"`
	Index       uint64         `json:"index"`
	Time        time.Time      `json:"time"`
	MadeBy      string         `json:"made_by"`
	Members     []memberShown  `json:"members"`
	GovernSet   uint64         `json:"operator_set"`
	Approvals   int            `json:"approvals"`
	Operators   []string       `json:"operators"`
	Keys        int            `json:"keys"`
	Versions    map[string]int `json:"versions"` // by state
	Epoch       uint64         `json:"epoch"`    // of the sharing in force; 0: none
	Threshold   int            `json:"threshold"`
	Holders     []string       `json:"holders"`
	KCV         string         `json:"kcv,omitempty"`
	Digest      string         `json:"digest"`
	Verified    bool           `json:"verified"`
	Restore     string         `json:"restore"`
}

type memberShown struct {
	Name        string `json:"name"`
	ID          string `json:"id"`
	Address     string `json:"address"`
	Fingerprint string `json:"fingerprint"`
}

func (a *app) showBackup(b *fsm.Backup) error {
	shown := describeBackup(b)
	return a.show(shown, func(w io.Writer) {
		row(w, "cluster", shown.Cluster+" "+shown.Name)
		row(w, "incarnation", shown.Incarnation)
		row(w, "index", shown.Index)
		row(w, "made", when(shown.Time)+" by "+shown.MadeBy)
		for _, m := range shown.Members {
			row(w, "member", m.Name+" "+m.ID+" "+m.Address+" "+m.Fingerprint)
		}
		row(w, "operators", fmt.Sprintf("set %d: %d of %d must approve", shown.GovernSet, shown.Approvals, len(shown.Operators)))
		for _, o := range shown.Operators {
			row(w, "  operator", o)
		}
		row(w, "keys", shown.Keys)
		for state := fsm.Enabled; state <= fsm.DestroyedExcept; state++ {
			if n := shown.Versions[state.String()]; n > 0 {
				row(w, "  versions "+state.String(), n)
			}
		}
		if shown.Epoch > 0 {
			row(w, "DKEK", fmt.Sprintf("epoch %d, any %d of %d holders, KCV %s", shown.Epoch, shown.Threshold, len(shown.Holders), shown.KCV))
		} else {
			row(w, "DKEK", "none")
		}
		row(w, "digest", shown.Digest)
		row(w, "verified", yesNo(shown.Verified))
		row(w, "to restore it", shown.Restore)
	})
}

func describeBackup(b *fsm.Backup) backupShown {
	view := b.Machine.State()
	cluster, _ := view.Cluster() // ReadBackup has seen it
	shown := backupShown{Cluster: b.Cluster.String(), Name: cluster.Name, Incarnation: b.Incarnation, Index: b.Index, Time: time.UnixMilli(b.Time).UTC(),
		Members: []memberShown{}, GovernSet: cluster.Operators.Number, Approvals: cluster.Operators.Approvals, Operators: []string{},
		Keys: view.Count(fsm.TableKeys), Versions: map[string]int{}, Holders: []string{}, Digest: view.Digest().String(), Verified: true}
	for m := range view.Members() {
		shown.Members = append(shown.Members, memberShown{m.Name, m.ID.String(), m.Addr, m.Fingerprint.String()})
		if m.ID == b.Node {
			shown.MadeBy = m.Name
		}
	}
	for _, o := range cluster.Operators.Operators {
		shown.Operators = append(shown.Operators, o.Name+" "+o.Fingerprint().String())
	}
	for v := range view.AllVersions(fsm.VersionRef{}) {
		shown.Versions[v.State.String()]++
	}
	approve := fmt.Sprintf("%d of %d operators' signatures", cluster.Operators.Approvals, len(cluster.Operators.Operators))
	proven, ok := view.Proven()
	if !ok {
		shown.Restore = "nothing wrapped is in it, as there is no DKEK yet; " + approve
		return shown
	}
	shown.Epoch, shown.Threshold, shown.KCV = proven.Plan.Epoch, proven.Plan.Threshold, proven.KCV.String()
	for _, h := range proven.Plan.Holders {
		name := h.Node.String()
		if m, ok := view.Member(h.Node); ok {
			name = m.Name
		}
		shown.Holders = append(shown.Holders, name)
	}
	shown.Restore = fmt.Sprintf("%d of these holders with their data folders, shares of epoch %d and seal secrets: %s; and %s",
		shown.Threshold, shown.Epoch, strings.Join(shown.Holders, ", "), approve)
	return shown
}
