package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
)

const (
	// refreshAfter is how old a cluster file may get before the next command
	// that reaches the cluster refreshes it.
	refreshAfter   = 10 * time.Minute
	refreshTimeout = 5 * time.Second
	// freshEnough is how old a state may be before an answer says so. A leader is
	// heard from several times in a heartbeat's timeout (500 ms): a node that knows
	// of none is past this before it refuses the first change.
	freshEnough = time.Second
)

// first returns the flag, else the variable, else the default.
func (a *app) first(flag, variable, otherwise string) string {
	if flag != "" {
		return flag
	}
	if value := a.getenv(variable); value != "" {
		return value
	}
	return otherwise
}

// home is a file in ~/.config/keycustodian.
func (a *app) home(name string) string {
	folder := a.getenv("XDG_CONFIG_HOME")
	if folder == "" {
		folder = filepath.Join(a.getenv("HOME"), ".config")
	}
	return filepath.Join(folder, "keycustodian", name)
}

func (a *app) clusterPath() string {
	return a.first(a.cluster, "NODECTL_CLUSTER", a.home("cluster.json"))
}

func (a *app) keyPath() string { return a.first(a.key, "NODECTL_KEY", a.home("key.pem")) }

// session is a connection to a cluster, or to one node's socket.
type session struct {
	*client.Client
	app    *app
	file   *client.ClusterFile // nil where there is none, as on a socket
	signer crypto.Signer       // the caller's key; nil on a socket until asked for
}

// connect opens a session with what flags and environment say.
func (a *app) connect(ctx context.Context) (*session, error) {
	s := &session{app: a}
	config := client.Config{}
	if text := a.first(a.addr, "NODECTL_ADDR", ""); text != "" {
		config.Addresses = strings.Split(text, ",")
	}
	file, err := client.ReadClusterFile(a.clusterPath())
	socket := len(config.Addresses) == 1 && strings.HasPrefix(config.Addresses[0], "unix:")
	switch {
	case err == nil:
		s.file = file
		config.Cluster, config.Members = file.Cluster.ID, file.Fingerprints()
		if config.Addresses == nil {
			config.Addresses = file.Addresses()
		}
	case socket && errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, fs.ErrNotExist):
		return nil, hint("give the cluster file with NODECTL_CLUSTER or --cluster: cluster init writes it, and any operator may pass it on", err)
	default:
		return nil, hint("get another copy of the cluster file, from an operator whom you trust", fmt.Errorf("%s: %s", a.clusterPath(), api.Plain(err.Error())))
	}
	if !socket {
		if s.signer, err = a.loadKey(ctx); err != nil {
			return nil, err
		}
		config.Key = s.signer
	}
	if s.Client, err = client.New(config); err != nil {
		return nil, hint("addresses are host:port,host:port or unix:/path", &usageError{err: err})
	}
	return s, nil
}

// operatorKey is the caller's key, also on a socket.
func (s *session) operatorKey(ctx context.Context) (crypto.Signer, error) {
	if s.signer == nil {
		signer, err := s.app.loadKey(ctx)
		if err != nil {
			return nil, err
		}
		s.signer = signer
	}
	return s.signer, nil
}

// do asks, and says on stderr that it takes its time.
func (s *session) do(ctx context.Context, name string, request, response any) error {
	done := s.app.busy(doing(name))
	answer, err := s.Do(ctx, name, request, response)
	done()
	s.sayAge(answer, err)
	return err
}

// wait is do for what shows its own progress.
func (s *session) wait(ctx context.Context, name string, request, response any) error {
	answer, err := s.Do(ctx, name, request, response)
	s.sayAge(answer, err)
	return err
}

// sayAge says on stderr where an answer is old.
func (s *session) sayAge(answer client.Answer, err error) {
	switch {
	case err != nil:
	case answer.StateAge > freshEnough:
		s.app.say("note: node %.32s has heard from no quorum for %s: this may be old", answer.Node, answer.StateAge.Round(time.Second))
	case answer.StateAge < 0 && s.file != nil && answer.Node != "": // not one that is sealed, or in no cluster
		s.app.say("note: node %.32s has heard from no quorum since its start: this may be old", answer.Node)
	}
}

// end refreshes a cluster file that has become old, and closes. What fails here
// fails quietly: the command itself was done.
func (s *session) end(ctx context.Context) {
	defer s.Close()
	path := s.app.clusterPath()
	info, err := os.Stat(path)
	if s.file == nil || err != nil || time.Since(info.ModTime()) < refreshAfter {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	if cluster, err := s.Refresh(ctx); err == nil {
		if err := s.keep(cluster); err != nil {
			s.app.say("note: the cluster file was not refreshed: %s", api.Plain(err.Error()))
		}
	}
}

// freshen brings the cluster file up to date now, before its members are
// compared with something that is signed.
func (s *session) freshen(ctx context.Context) error {
	if s.file == nil {
		return nil
	}
	done := s.app.busy(doing(api.ClusterShow))
	cluster, err := s.Refresh(ctx)
	done()
	if err != nil {
		return err
	}
	return s.keep(cluster)
}

// keep writes the cluster file anew where the members have changed, and makes
// it young where they have not. It is a node's word: a new member is named, and
// that one is gone or has another key an operator's file believes only by
// cluster refresh. A node that could take members away unseen could have all
// shares dealt to itself.
func (s *session) keep(cluster api.Cluster) error {
	path := s.app.clusterPath()
	if reflect.DeepEqual(cluster, s.file.Cluster) {
		now := time.Now()
		os.Chtimes(path, now, now)
		return nil
	}
	came, gone := memberChanges(s.file.Cluster.Members, cluster.Members)
	if len(gone) > 0 && s.file.Operators != nil && !s.app.trusting {
		return hint("if that is right: nodectl cluster refresh, and repeat",
			fmt.Errorf("node says that %s is no member any more, or has another key", strings.Join(gone, ", ")))
	}
	for _, text := range came {
		s.app.say("note: new in the cluster file: %s", text)
	}
	s.file.Cluster = cluster
	return s.file.Write(path)
}

// memberChanges names who came and who went; a changed key is both.
func memberChanges(before, after []api.Endpoint) (came, gone []string) {
	has := func(list []api.Endpoint, m api.Endpoint) bool {
		return slices.ContainsFunc(list, func(o api.Endpoint) bool { return o.ID == m.ID && o.Fingerprint == m.Fingerprint })
	}
	for _, m := range after {
		if !has(before, m) {
			came = append(came, fmt.Sprintf("%s, key %.64s", m.Name, m.Fingerprint))
		}
	}
	for _, m := range before {
		if !has(after, m) {
			gone = append(gone, fmt.Sprintf("%s, key %.64s", m.Name, m.Fingerprint))
		}
	}
	return came, gone
}

// member finds a node by name, ID or unique prefix of either, of an ID of
// api.ShortestID characters at least.
func (s *session) member(ctx context.Context, text string) (api.Endpoint, error) {
	if err := s.freshen(ctx); err != nil {
		return api.Endpoint{}, err
	}
	members := s.members()
	if s.file == nil {
		var cluster api.Cluster
		if err := s.do(ctx, api.ClusterShow, nil, &cluster); err != nil {
			return api.Endpoint{}, err
		}
		members = cluster.Members
	}
	return findMember(members, text)
}

// memberForGood is member for what cannot be taken back: it wants the whole name or
// the ID. Repeated for node-1, which is gone, it must not take node-10.
func (s *session) memberForGood(ctx context.Context, text string) (api.Endpoint, error) {
	m, err := s.member(ctx, text)
	if err != nil || m.Name == text || len(text) >= api.ShortestID && strings.HasPrefix(m.ID, text) {
		return m, err
	}
	return api.Endpoint{}, hint("give the whole name or the ID: this is for ever", fmt.Errorf("no member is called %.80q", text))
}

// members are those in the cluster file.
func (s *session) members() []api.Endpoint {
	if s.file == nil {
		return nil
	}
	return s.file.Cluster.Members
}

func findMember(members []api.Endpoint, text string) (api.Endpoint, error) {
	var found []api.Endpoint
	for _, m := range members {
		if m.Name == text || m.ID == text {
			return m, nil
		}
		if text != "" && strings.HasPrefix(m.Name, text) || len(text) >= api.ShortestID && strings.HasPrefix(m.ID, text) {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return api.Endpoint{}, hint("see nodectl cluster members", fmt.Errorf("no member is called %.80q", text))
	}
	return api.Endpoint{}, hint("give the whole name or ID", fmt.Errorf("%.80q fits %d members", text, len(found)))
}

// ask is connect, one request, end.
func (a *app) ask(ctx context.Context, name string, request, response any) error {
	s, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer s.end(ctx)
	return s.do(ctx, name, request, response)
}
