package client

import (
	"context"
	"iter"

	"github.com/keycustodian/keycustodian/node/api"
)

// CreateKey makes a key and returns when it is committed and proven.
func (c *Client) CreateKey(ctx context.Context, spec api.KeyCreateRequest) (api.Key, error) {
	var key api.Key
	_, err := c.Do(ctx, api.KeyCreate, spec, &key)
	return key, err
}

// Keys yields the keys that the caller may see, by name, page by page.
func (c *Client) Keys(ctx context.Context, query api.KeyListQuery) iter.Seq2[api.Key, error] {
	return func(yield func(api.Key, error) bool) {
		for {
			var page api.Keys
			if _, err := c.Do(ctx, api.KeyList, query, &page); err != nil {
				yield(api.Key{}, err)
				return
			}
			for _, key := range page.Keys {
				if !yield(key, nil) {
					return
				}
			}
			if page.Next == "" || page.Next <= query.After { // no page twice, whatever a server says
				return
			}
			query.After = page.Next
		}
	}
}

// Encrypt encrypts with AES-GCM, up to api.MaxMessage bytes, or RSA-OAEP with
// SHA-256. Keep the version with the ciphertext: decryption names it.
func (c *Client) Encrypt(ctx context.Context, name string, plaintext, additional []byte) (api.EncryptResponse, error) {
	var response api.EncryptResponse
	_, err := c.Do(ctx, api.KeyEncrypt, api.EncryptRequest{Key: name, Plaintext: plaintext, Additional: additional}, &response)
	return response, err
}

// Decrypt reverses Encrypt.
func (c *Client) Decrypt(ctx context.Context, name string, ciphertext, additional []byte) ([]byte, error) {
	var response api.DecryptResponse
	_, err := c.Do(ctx, api.KeyDecrypt, api.DecryptRequest{Key: name, Ciphertext: ciphertext, Additional: additional}, &response)
	return response.Plaintext, err
}

// MAC computes the 16-byte AES-CMAC of a message.
func (c *Client) MAC(ctx context.Context, name string, message []byte) ([]byte, error) {
	var response api.MACResponse
	_, err := c.Do(ctx, api.KeyMAC, api.MACRequest{Key: name, Message: message}, &response)
	return response.MAC, err
}

// Derive agrees by ECDH with a peer's key, given as DER SubjectPublicKeyInfo,
// and returns the raw X coordinate. Pass it through a KDF.
func (c *Client) Derive(ctx context.Context, name string, peer []byte) ([]byte, error) {
	var response api.DeriveResponse
	_, err := c.Do(ctx, api.KeyDerive, api.DeriveRequest{Key: name, Peer: peer}, &response)
	return response.Shared, err
}

// Random returns n bytes, up to api.MaxRandom, from a device's own generator.
func (c *Client) Random(ctx context.Context, n int) ([]byte, error) {
	var response api.RandomResponse
	_, err := c.Do(ctx, api.Random, api.RandomQuery{Bytes: n}, &response)
	return response.Random, err
}

// Status is what the node that answers knows.
func (c *Client) Status(ctx context.Context) (api.Status, Answer, error) {
	var status api.Status
	answer, err := c.Do(ctx, api.ClusterStatus, nil, &status)
	return status, answer, err
}
