package node

import (
	"net"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

type pinRoom struct{}

func newPinRoom(*Node) (*pinRoom, error)                                           { return &pinRoom{}, nil }
func (*pinRoom) start()                                                            {}
func (*pinRoom) begin(fsm.OperatorSet) error                                       { return nil }
func (*pinRoom) set() (s fsm.OperatorSet)                                          { return }
func (*pinRoom) adopt(dkek.ClusterID, []fsm.GovernRecord, uint64, dkek.Hash) error { return nil }

type shareRoom struct{}

func newShareRoom(*Node) (*shareRoom, error) { return &shareRoom{}, nil }
func (*shareRoom) start()                    {}

type ceremonyRoom struct{}

func newCeremonyRoom(*Node) *ceremonyRoom { return &ceremonyRoom{} }
func (*ceremonyRoom) start()              {}

type face struct{}

func newFace(*Node) *face        { return &face{} }
func (*face) startSocket() error { return nil }
func (*face) serve(net.Listener) {}
func (*face) close()             {}
