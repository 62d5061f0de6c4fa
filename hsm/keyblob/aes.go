package keyblob

import "fmt"

func (k AES) encode(w *writer) error {
	if err := checkAES(len(k.Key)); err != nil {
		return err
	}
	w.uint16(len(k.Key))
	w.raw(k.Key)
	return nil
}

func decodeAES(r *reader, size int, algorithms []byte) (PrivateKey, error) {
	if err := checkAES(size); err != nil {
		return nil, err
	}
	key := r.raw(size, "key")
	if err := r.end(); err != nil {
		return nil, err
	}
	return AES{Key: clone(key), Algorithms: algorithms}, nil
}

func checkAES(size int) error {
	if size != 16 && size != 24 && size != 32 {
		return fmt.Errorf("%w: a key of %d bytes: 16, 24 or 32", ErrUnsupported, size)
	}
	return nil
}
