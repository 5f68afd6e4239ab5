/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Switching stacks on AArch64, AAPCS64.
 *
 * A stack that is switched away from ends like this, and place->stack_pointer points to its lowest word:
 *
 *   +160 fpcr, nothing
 *   +152 x30: where to go on
 *   +144 x29
 *    +64 x19 … x28
 *      0 d8 … d15
 */
	.text

/* void coaio_switch (CoSwitch *from, CoSwitch *to) */
	.globl	coaio_switch
	.hidden	coaio_switch
	.type	coaio_switch, %function
	.p2align 5
coaio_switch:
	.cfi_startproc
	hint	#34		/* bti c */
	sub	sp, sp, #176
	stp	d8, d9, [sp]
	stp	d10, d11, [sp, #16]
	stp	d12, d13, [sp, #32]
	stp	d14, d15, [sp, #48]
	stp	x19, x20, [sp, #64]
	stp	x21, x22, [sp, #80]
	stp	x23, x24, [sp, #96]
	stp	x25, x26, [sp, #112]
	stp	x27, x28, [sp, #128]
	stp	x29, x30, [sp, #144]
	mrs	x9, fpcr
	str	x9, [sp, #160]
	mov	x10, sp
	str	x10, [x0]
	ldr	x10, [x1]
	mov	sp, x10
	/* Writing fpcr is slow, and it is nearly always the same. */
	ldr	x11, [sp, #160]
	cmp	x9, x11
	b.eq	1f
	msr	fpcr, x11
1:
	ldp	d8, d9, [sp]
	ldp	d10, d11, [sp, #16]
	ldp	d12, d13, [sp, #32]
	ldp	d14, d15, [sp, #48]
	ldp	x19, x20, [sp, #64]
	ldp	x21, x22, [sp, #80]
	ldp	x23, x24, [sp, #96]
	ldp	x25, x26, [sp, #112]
	ldp	x27, x28, [sp, #128]
	ldp	x29, x30, [sp, #144]
	add	sp, sp, #176
	ret
	.cfi_endproc
	.size	coaio_switch, . - coaio_switch

/* The first thing on a new stack: x19 (x20), and no way back. */
	.type	start_stack, %function
	.p2align 4
start_stack:
	.cfi_startproc
	.cfi_undefined x30
	hint	#36		/* bti j */
	mov	x0, x20
	mov	x29, xzr
	mov	x30, xzr
	blr	x19
	brk	#1
	.cfi_endproc
	.size	start_stack, . - start_stack

/* void coaio_switch_init (CoSwitch *place, char *bottom, size_t size, void (*start) (void *), void *opaque) */
	.globl	coaio_switch_init
	.hidden	coaio_switch_init
	.type	coaio_switch_init, %function
	.p2align 4
coaio_switch_init:
	.cfi_startproc
	hint	#34		/* bti c */
	add	x9, x1, x2
	and	x9, x9, #-16
	sub	x9, x9, #176
	stp	x3, x4, [x9, #64]
	adr	x10, start_stack
	stp	xzr, x10, [x9, #144]
	mrs	x11, fpcr
	str	x11, [x9, #160]
	str	x9, [x0]
	ret
	.cfi_endproc
	.size	coaio_switch_init, . - coaio_switch_init

	.section .note.GNU-stack, "", %progbits

	/* Branch targets are marked; return addresses are not signed here. */
	.section .note.gnu.property, "a"
	.p2align 3
	.word	4
	.word	16
	.word	5
	.asciz	"GNU"
	.word	0xc0000000
	.word	4
	.word	1
	.word	0
