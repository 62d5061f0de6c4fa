package api

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrSecrets means that a body of [TypeSecrets] is malformed.
var ErrSecrets = errors.New("body of secrets is malformed")

// EncodeSecrets makes a body of [TypeSecrets]: each secret as two bytes of
// length, big-endian, and its bytes. Secrets never travel as JSON, whose
// strings cannot be wiped, and over the unix socket only. The caller wipes the
// result.
func EncodeSecrets(secrets ...[]byte) ([]byte, error) {
	size := 0
	for _, s := range secrets {
		if len(s) > MaxSecret {
			return nil, fmt.Errorf("%w: a secret is longer than %d bytes", ErrSecrets, MaxSecret)
		}
		size += 2 + len(s)
	}
	body := make([]byte, 0, size) // never grows: no copies are left behind
	for _, s := range secrets {
		body = binary.BigEndian.AppendUint16(body, uint16(len(s)))
		body = append(body, s...)
	}
	return body, nil
}

// ReadSecrets reads exactly count secrets. The caller wipes them, after an
// error too.
func ReadSecrets(r io.Reader, count int) ([][]byte, error) {
	secrets := make([][]byte, 0, count)
	for range count {
		var length [2]byte
		if _, err := io.ReadFull(r, length[:]); err != nil {
			return secrets, fmt.Errorf("%w: %d of %d secrets", ErrSecrets, len(secrets), count)
		}
		n := int(binary.BigEndian.Uint16(length[:]))
		if n > MaxSecret {
			return secrets, fmt.Errorf("%w: a secret is longer than %d bytes", ErrSecrets, MaxSecret)
		}
		s := make([]byte, n)
		secrets = append(secrets, s)
		if _, err := io.ReadFull(r, s); err != nil {
			return secrets, fmt.Errorf("%w: it ends early", ErrSecrets)
		}
	}
	if n, _ := io.ReadFull(r, make([]byte, 1)); n != 0 {
		return secrets, fmt.Errorf("%w: something follows", ErrSecrets)
	}
	return secrets, nil
}
