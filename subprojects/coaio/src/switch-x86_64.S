/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Switching stacks on x86-64, System V convention.
 *
 * A stack that is switched away from ends like this, and place->stack_pointer points to its lowest word:
 *
 *   +56  where to go on
 *   +48  rbp
 *   +40  rbx
 *   +32  r12
 *   +24  r13
 *   +16  r14
 *    +8  r15
 *     0  mxcsr (4 bytes), x87 control word (2 bytes), nothing
 *
 * The object is marked for indirect branch tracking, and on purpose not for shadow stacks: a process that links it
 * runs without them, as returning on another stack is what they forbid.
 */
	.text

/* void coaio_switch (CoSwitch *from, CoSwitch *to) */
	.globl	coaio_switch
	.hidden	coaio_switch
	.type	coaio_switch, @function
	.p2align 5
coaio_switch:
	.cfi_startproc
	endbr64
	pushq	%rbp
	pushq	%rbx
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	subq	$8, %rsp
	stmxcsr	(%rsp)
	fnstcw	4(%rsp)
	movq	(%rsi), %rcx
	/* Loading control words is slow, and they are nearly always the same.  Each is read as wide as it was
	   written, or the processor would wait for its own stores.  The low six bits of mxcsr are flags that
	   need not be kept. */
	movl	(%rsp), %eax
	movzwl	4(%rsp), %edx
	xorl	(%rcx), %eax
	xorw	4(%rcx), %dx
	movq	%rsp, (%rdi)
	movq	%rcx, %rsp
	andl	$-64, %eax
	orl	%edx, %eax
	jnz	2f
1:
	addq	$8, %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbx
	popq	%rbp
	popq	%rcx
	jmp	*%rcx
2:
	ldmxcsr	(%rsp)
	fldcw	4(%rsp)
	jmp	1b
	.cfi_endproc
	.size	coaio_switch, . - coaio_switch

/* The first thing on a new stack: r12 (r13), and no way back. */
	.type	start_stack, @function
	.p2align 4
start_stack:
	.cfi_startproc
	.cfi_undefined rip
	endbr64
	movq	%r13, %rdi
	xorl	%ebp, %ebp
	callq	*%r12
	ud2
	.cfi_endproc
	.size	start_stack, . - start_stack

/* void coaio_switch_init (CoSwitch *place, char *bottom, size_t size, void (*start) (void *), void *opaque) */
	.globl	coaio_switch_init
	.hidden	coaio_switch_init
	.type	coaio_switch_init, @function
	.p2align 4
coaio_switch_init:
	.cfi_startproc
	endbr64
	leaq	(%rsi,%rdx), %rax
	andq	$-16, %rax
	subq	$80, %rax
	leaq	start_stack(%rip), %rdx
	movq	%rdx, 56(%rax)
	movq	$0, 48(%rax)
	movq	$0, 40(%rax)
	movq	%rcx, 32(%rax)
	movq	%r8, 24(%rax)
	movq	$0, 16(%rax)
	movq	$0, 8(%rax)
	stmxcsr	(%rax)
	fnstcw	4(%rax)
	movq	%rax, (%rdi)
	ret
	.cfi_endproc
	.size	coaio_switch_init, . - coaio_switch_init

	.section .note.GNU-stack, "", @progbits

	.section .note.gnu.property, "a"
	.p2align 3
	.long	4
	.long	16
	.long	5
	.asciz	"GNU"
	.long	0xc0000002
	.long	4
	.long	1
	.long	0
