package keyblob

import (
	"fmt"
)

// File is what sc-hsm-tool --wrap-key writes. Only Blob is authenticated: what
// the others say about the key is to be compared with the key after unwrapping.
type File struct {
	// Blob is the key blob, of at most MaxBlob bytes.
	Blob []byte
	// Description is the key's PKCS#15 description, one whole DER element; nil:
	// none. Its tag tells the kind of key: DescriptionRSA, -EC, -AES.
	Description []byte
	// Certificate is one whole DER element, an authenticated CV request or an
	// X.509 certificate; nil: none. A X.509 one needs a Description before it.
	Certificate []byte
}

// Tags of the elements.
const (
	DescriptionRSA   = 0x30
	DescriptionEC    = 0xA0
	DescriptionAES   = 0xA8
	CertificateCVReq = 0x67
	CertificateX509  = 0x30

	tagSequence    = 0x30
	tagOctetString = 0x04
)

// ParseFile reads a wrapped-key file, strictly as DER: no byte may be left over
// and no length be longer than needed. It does not look into the parts. The
// File keeps nothing of data. Errors: [ErrMalformed].
func ParseFile(data []byte) (*File, error) {
	f, err := parseFile(data)
	if err != nil {
		return nil, fmt.Errorf("keyblob: wrapped-key file: %w", err)
	}
	return f, nil
}

func parseFile(data []byte) (*File, error) {
	if len(data) > MaxFile {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(data), MaxFile)
	}
	outer, rest, err := takeElement(data)
	if err != nil {
		return nil, err
	}
	if outer.tag != tagSequence || len(rest) > 0 {
		return nil, fmt.Errorf("%w: not one SEQUENCE", ErrMalformed)
	}
	blob, rest, err := takeElement(outer.content)
	if err != nil {
		return nil, err
	}
	if blob.tag != tagOctetString || len(blob.content) == 0 || len(blob.content) > MaxBlob {
		return nil, fmt.Errorf("%w: no OCTET STRING with a key blob in front", ErrMalformed)
	}
	f := &File{Blob: clone(blob.content)}
	for len(rest) > 0 {
		var next element
		if next, rest, err = takeElement(rest); err != nil {
			return nil, err
		}
		switch {
		case f.Description == nil && f.Certificate == nil && isDescription(next.tag):
			f.Description = clone(next.whole)
		case f.Certificate == nil && isCertificate(next.tag):
			f.Certificate = clone(next.whole)
		default:
			return nil, fmt.Errorf("%w: unexpected element %02X", ErrMalformed, next.tag)
		}
	}
	return f, nil
}

// Bytes returns the file's DER, which ParseFile reads back as it was.
func (f *File) Bytes() ([]byte, error) {
	if len(f.Blob) > MaxBlob { // keeps the sums below small
		return nil, fmt.Errorf("keyblob: wrapped-key file: %w: blob of %d bytes", ErrMalformed, len(f.Blob))
	}
	content := appendElement(nil, tagOctetString, f.Blob)
	content = append(content, f.Description...)
	content = append(content, f.Certificate...)
	data := appendElement(nil, tagSequence, content)
	back, err := ParseFile(data)
	if err != nil {
		return nil, err
	}
	// Elements in the wrong field, or several in one, would come back otherwise.
	if string(back.Description) != string(f.Description) || string(back.Certificate) != string(f.Certificate) {
		return nil, fmt.Errorf("keyblob: wrapped-key file: %w: parts in the wrong place", ErrMalformed)
	}
	return data, nil
}

func isDescription(tag byte) bool {
	return tag == DescriptionRSA || tag == DescriptionEC || tag == DescriptionAES
}

func isCertificate(tag byte) bool { return tag == CertificateCVReq || tag == CertificateX509 }

// element is one DER element with a tag of one byte.
type element struct {
	tag            byte
	whole, content []byte
}

func takeElement(data []byte) (e element, rest []byte, err error) {
	bad := fmt.Errorf("%w: not DER", ErrMalformed)
	if len(data) < 2 || data[0]&0x1F == 0x1F {
		return element{}, nil, bad
	}
	header, n := 2, int(data[1])
	if n >= 0x80 {
		digits := n - 0x80
		if digits < 1 || digits > 2 || len(data) < 2+digits || data[2] == 0 {
			return element{}, nil, bad
		}
		header, n = 2+digits, 0
		for _, b := range data[2 : 2+digits] {
			n = n<<8 | int(b)
		}
		if n < 0x80 {
			return element{}, nil, bad
		}
	}
	if n > len(data)-header {
		return element{}, nil, bad
	}
	end := header + n
	return element{tag: data[0], whole: data[:end], content: data[header:end]}, data[end:], nil
}

func appendElement(out []byte, tag byte, content []byte) []byte {
	n := len(content)
	switch {
	case n < 0x80:
		out = append(out, tag, byte(n))
	case n < 0x100:
		out = append(out, tag, 0x81, byte(n))
	default:
		out = append(out, tag, 0x82, byte(n>>8), byte(n))
	}
	return append(out, content...)
}
