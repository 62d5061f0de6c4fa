package keyblob

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
)

// CMAC returns the AES-CMAC (RFC 4493, SP 800-38B) of a message. block is AES
// with a key of any of its three sizes.
func CMAC(block cipher.Block, message []byte) [16]byte {
	var state, last [aes.BlockSize]byte
	block.Encrypt(last[:], last[:])
	last = double(last) // K1

	for len(message) > aes.BlockSize {
		subtle.XORBytes(state[:], state[:], message[:aes.BlockSize])
		block.Encrypt(state[:], state[:])
		message = message[aes.BlockSize:]
	}
	if len(message) < aes.BlockSize {
		last = double(last) // K2
		last[len(message)] ^= 0x80
	}
	subtle.XORBytes(last[:], last[:], message)
	subtle.XORBytes(state[:], state[:], last[:])
	block.Encrypt(state[:], state[:])
	return state
}

// double multiplies by x in GF(2^128), without a branch on the secret subkey.
func double(b [aes.BlockSize]byte) [aes.BlockSize]byte {
	var out [aes.BlockSize]byte
	carry := byte(0)
	for i := len(b) - 1; i >= 0; i-- {
		out[i] = b[i]<<1 | carry
		carry = b[i] >> 7
	}
	out[len(out)-1] ^= 0x87 & -carry
	return out
}
