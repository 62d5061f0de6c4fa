package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/keycustodian/keycustodian/node/api"
)

// ClusterFormat is the format number of a cluster file.
const ClusterFormat = 1

// maxClusterFile bounds a cluster file, in bytes.
const maxClusterFile = 1 << 20

// ClusterFile is what a client keeps about a cluster. It holds no secret, but
// whoever can change it can lead its owner to another cluster.
type ClusterFile struct {
	// Format is ClusterFormat.
	Format int `json:"format"`
	// Cluster and where its members answer, as of the last refresh.
	Cluster api.Cluster `json:"cluster"`
	// Operators is the set that the owner has pinned: written at cluster init,
	// changed only along verified govern records, never taken from an answer.
	// Null for clients that are no operators.
	Operators *api.OperatorSet `json:"operators,omitempty"`
}

// ParseClusterFile reads and checks a cluster file; unknown fields are refused.
func ParseClusterFile(content []byte) (*ClusterFile, error) {
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	f := &ClusterFile{}
	if err := decoder.Decode(f); err != nil {
		return nil, fmt.Errorf("client: cluster file: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("client: cluster file: something follows its end")
	}
	if f.Format != ClusterFormat {
		return nil, fmt.Errorf("client: cluster file: format %d, this program reads %d", f.Format, ClusterFormat)
	}
	if len(f.Cluster.ID) != 32 {
		return nil, errors.New("client: cluster file: the cluster's ID is not 32 hexadecimal digits")
	}
	if len(f.Cluster.Members) == 0 {
		return nil, errors.New("client: cluster file: no members")
	}
	if _, err := parsePins(f.Fingerprints()); err != nil {
		return nil, fmt.Errorf("client: cluster file: %w", err)
	}
	return f, nil
}

// ReadClusterFile reads and checks a cluster file.
func ReadClusterFile(path string) (*ClusterFile, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("client: cluster file: %w", err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxClusterFile+1))
	if err != nil {
		return nil, fmt.Errorf("client: cluster file: %w", err)
	}
	if len(content) > maxClusterFile {
		return nil, fmt.Errorf("client: cluster file: %s: longer than %d bytes", path, maxClusterFile)
	}
	return ParseClusterFile(content)
}

// Write replaces the file at path, whole or not at all, mode 0600.
func (f *ClusterFile) Write(path string) error {
	content, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("client: cluster file: %w", err)
	}
	beside, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.new")
	if err != nil {
		return fmt.Errorf("client: cluster file: %w", err)
	}
	defer os.Remove(beside.Name())
	_, err = beside.Write(append(content, '\n'))
	err = errors.Join(err, beside.Sync(), beside.Close())
	if err == nil {
		err = os.Rename(beside.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("client: cluster file: %w", err)
	}
	return nil
}

// Addresses are the members' addresses.
func (f *ClusterFile) Addresses() []string {
	addresses := make([]string, len(f.Cluster.Members))
	for i, m := range f.Cluster.Members {
		addresses[i] = m.Address
	}
	return addresses
}

// Fingerprints are the members' fingerprints.
func (f *ClusterFile) Fingerprints() []string {
	fingerprints := make([]string, len(f.Cluster.Members))
	for i, m := range f.Cluster.Members {
		fingerprints[i] = m.Fingerprint
	}
	return fingerprints
}

// Refresh asks the cluster for its members and from then on asks and believes
// those. On a socket nothing is pinned and nothing changes.
func (c *Client) Refresh(ctx context.Context) (api.Cluster, error) {
	var cluster api.Cluster
	if _, err := c.Do(ctx, api.ClusterShow, nil, &cluster); err != nil {
		return cluster, err
	}
	if c.cluster != "" && cluster.ID != c.cluster {
		return cluster, fmt.Errorf("client: the answer is from cluster %.40s, not %s", cluster.ID, c.cluster)
	}
	if c.socket != "" {
		return cluster, nil
	}
	fresh := &ClusterFile{Cluster: cluster}
	pins, err := parsePins(fresh.Fingerprints())
	if err != nil {
		return cluster, err
	}
	if len(pins) == 0 {
		return cluster, errors.New("client: the cluster named no members")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pins, c.addresses, c.current = pins, fresh.Addresses(), 0
	return cluster, nil
}
