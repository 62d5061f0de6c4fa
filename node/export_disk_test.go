package node

import "github.com/hashicorp/raft"

// tightDisk takes what is overwritten in its place, a term, also when it is full.
type tightDisk struct{ fullDisk }

func (d *tightDisk) SetUint64(key []byte, value uint64) error {
	return d.InmemStore.SetUint64(key, value)
}

// Disk puts the log of a folder that is not in use on a disk that can be full,
// and returns what fills it or makes room.
func (m *Memory) Disk() (fill func(bool)) {
	disk := &tightDisk{fullDisk{InmemStore: m.log.log.(*raft.InmemStore)}}
	m.log.log = disk
	return disk.full.Store
}
